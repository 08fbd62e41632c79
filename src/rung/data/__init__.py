"""Rows of text in, batches of tokens out.

`prepare.prepare` does all steps up to the stored examples. The modules, in the order of the data:

- Files to records: `read/` finds the files of each split and reads every format; `builtin` has the
  built-in tasks.
- Records to rows: `schema` detects the format and `row_builders` makes the row (`rows.Row`). They
  use `chat/` (`turns`, `tool_calls`, `training_flags`, `conversation_fields`), `field_values`,
  `field_hints` and `row_errors`. `remarks` counts what a row says and its tokens do not.
- Rows to examples: `tokenize` makes an `example.Example`, of a conversation with `chat/`
  (`tokenize_chat`, `render`, `template_probe`, `template_marks`, `missing_texts`). It uses
  `special_tokens` and `tokenizer_state`.
- Examples to splits: `arrow_store` keeps them on the disk, `example_cache` finds them again,
  `splits` makes and checks splits, and `related/` keeps related rows in one split. `data_stats` has
  the counts.
- Examples to batches: `batches` has the order of the rows and the tensors; `model_limits` checks
  that a model can take them.
- Findings for the user: `audit/`, with `foreign_language`.
"""
