"""The embedded task `digits`: composed questions about handwritten digits."""
