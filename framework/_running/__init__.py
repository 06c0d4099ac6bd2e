"""How one task runs: counted, begun, retried, limited, ended, and made known."""
