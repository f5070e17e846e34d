"""What several test files share: small models and adapters, by hand or by the real libraries."""
