"""What trained gates do, token by token: effects with intervals, figures, sentences.

Values come from `gatera.training.evaluation.gated_tokens`, one model a row. `effects` judges them,
`maps` draws them, `text` says them; the page that shows each token is `reports.pages.gates`'.
"""
