"""The rules, one module for each kind, each a pure function from a history to what breaks the rule."""
