"""`jsjobs dev`: local servers, and an application that is loaded again when its files change."""
