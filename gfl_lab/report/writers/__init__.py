"""Writers of grids: one module a language. Each escapes all text, since names come from files and are data, never markup."""
