"""Arguments that are closed with the request that passes them: finding and refusing them."""
