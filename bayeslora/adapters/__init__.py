"""Low-rank changes of linear layers: sites, starts, injection, exchange with PEFT."""
