//! The `credfs` program: hands over to the `cli` room.

fn main() {}
