"""Pictures for visual inspection."""
