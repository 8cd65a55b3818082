"""Tables of participants: whose recording each is, and what is known of the person.

People write these tables by hand and by spreadsheet: with the suffix or the folder of a file, in
another case, with numbers that lost their zeros. A row fits the recording that it can only mean;
a row that could mean two is refused, and rows and recordings without a partner are counted.
"""

from data_pipelines.participants.matching import People, match
from data_pipelines.participants.tables import (
    Row,
    SubjectMapError,
    Table,
    find_tables,
    read_table,
)

__all__ = ["People", "Row", "SubjectMapError", "Table", "find_tables", "match", "read_table"]
