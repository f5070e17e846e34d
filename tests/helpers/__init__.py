"""What several test files share: small models and adapters, made by hand or by the real libraries, and looks at files."""
