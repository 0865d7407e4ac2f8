"""Ground: errors, reasons, field checks, token layout, protocols, host transfer, stopwatch."""
