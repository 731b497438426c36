from __future__ import annotations

import dataclasses

import pyarrow as pa

from tokay import records
from tokay.records import Example, Judgment, from_batches, schema_of, to_table


def test_every_record_has_a_schema_and_comes_back_equal() -> None:
    example = Example("q", "t", "how?", "p1", "p2", ["n"], ["p2", "p3"], [], [], True, "dev")
    table = to_table(Example, [example, dataclasses.replace(example, negative_ids=[])])
    assert table.schema == schema_of(Example)
    assert table.schema.field("negative_ids").type == pa.list_(pa.string())
    assert next(from_batches(Example, table.to_batches())) == example
    kinds = [c for c in vars(records).values() if dataclasses.is_dataclass(c)]
    assert len(kinds) == 15
    assert all(schema_of(kind).names == [f.name for f in dataclasses.fields(kind)] for kind in kinds)


def test_empty_tables_keep_their_schema() -> None:
    assert to_table(Judgment, []).schema == schema_of(Judgment)
