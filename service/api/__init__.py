"""HTTP: schemas, routes and problem documents. Knows scoring, and nothing below it."""
