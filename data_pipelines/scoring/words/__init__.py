"""Words for stages and events: tables of them, one row a word, and what is in no table."""
