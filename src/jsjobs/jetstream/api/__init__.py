"""The JetStream API in typed form: the only package that knows its subjects."""
