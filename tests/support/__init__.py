"""What tests share: scripted workers, tiny models, servers. Importable by worker processes."""
