# The checks that CI runs, one by one.

# Everything that must hold for a change to land.
ci:
    .ci/run

# Format, lints and documentation.
lint:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings
    cargo clippy --all-targets --locked --features failpoints -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --document-private-items

# All tests; `just test -- runs::` for some.
test *ARGS:
    cargo test --locked {{ARGS}}

# The fault suite alone.
faults *ARGS:
    cargo test --locked --test faults {{ARGS}}

# Its long run: two thousand kills, a frozen machine, five minutes of random mixes.
faults-long *ARGS:
    cargo test --locked --test faults -- --ignored {{ARGS}}

# Random mixes of faults for as long as this says, under both judges: `just soak 60m`. Prints its figures as Markdown.
soak TIME='60m':
    ORCH_SOAK={{TIME}} cargo test --release --locked --test faults -- --ignored --exact soak::random_mixes_of_faults

# Breaks the guards one by one, and sees that the row which is named for each fails. `just mutations --gate` for CI's.
mutations *ARGS:
    .ci/mutations {{ARGS}}

# After a change of the schema or of a statement: write the committed shapes anew, then read the diff.
shapes:
    ORCH_UPDATE_COMMITTED=1 cargo test --locked --test it -- statements:: schema::

# What orch does beside what this machine can do; `just bench engine latency` for some of it.
bench *ARGS:
    cargo run --release --locked -- bench {{ARGS}}
