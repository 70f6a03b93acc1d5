"""The Faust app beside the updater: it makes canonical events of a site's records and ranks rising items."""
