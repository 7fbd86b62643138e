"""Tools that list records: what selects, orders and cuts them."""
