//! What is hidden, against the plainest way to say it: look for every secret at every place of the whole output.

use proptest::prelude::*;

use super::*;

fn redactor(secrets: &[(&str, &str)]) -> Redactor {
    let mut all = Secrets::new();
    for (name, value) in secrets {
        all.add(name, hidden_lines(value));
    }
    all.link();
    Redactor { secrets: all, state: ROOT, held: Vec::new(), found: VecDeque::new() }
}

fn redacted(secrets: &[(&str, &str)], pieces: &[&[u8]]) -> Vec<u8> {
    let (mut redactor, mut out) = (redactor(secrets), Vec::new());
    for piece in pieces {
        redactor.take(piece, |bytes| out.extend_from_slice(bytes));
    }
    redactor.finish(|bytes| out.extend_from_slice(bytes));
    out
}

/// What should come of it, with `#` for each stretch that is hidden.
fn plainly(secrets: &[&str], text: &[u8]) -> Vec<u8> {
    let mut ranges = Vec::new();
    for start in 0..text.len() {
        let rest = &text[start..];
        let hidden = secrets.iter().filter(|secret| rest.starts_with(secret.as_bytes())).map(|secret| secret.len());
        let cut_off = secrets.iter().any(|secret| rest.len() < secret.len() && secret.as_bytes().starts_with(rest));
        let cut_off = (cut_off && rest.len() >= SHORTEST).then_some(rest.len());
        ranges.extend(hidden.chain(cut_off).max().map(|length| (start, start + length)));
    }
    let (mut out, mut done) = (Vec::new(), 0);
    for (start, end) in ranges {
        if start >= done {
            out.extend_from_slice(&text[done..start]);
            out.push(b'#');
        }
        done = done.max(end);
    }
    out.extend_from_slice(&text[done..]);
    out
}

proptest! {
    #[test]
    fn every_secret_is_hidden_however_the_output_is_cut(
        secrets in prop::collection::vec("[ab]{4,7}", 1..5),
        text in "[abc]{0,60}",
        cuts in prop::collection::vec(1_usize..9, 0..30),
    ) {
        let named: Vec<(&str, &str)> = secrets.iter().map(|secret| ("N", secret.as_str())).collect();
        let (mut pieces, mut rest) = (Vec::new(), text.as_bytes());
        for cut in cuts {
            let (piece, others) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = others;
        }
        pieces.push(rest);
        let expected = plainly(&secrets.iter().map(String::as_str).collect::<Vec<_>>(), text.as_bytes());
        let expected = String::from_utf8(expected).unwrap().replace('#', "[redacted N]");
        prop_assert_eq!(String::from_utf8(redacted(&named, &pieces)).unwrap(), expected);
    }
}

#[test]
fn a_secret_is_named_and_what_surrounds_it_is_kept_byte_for_byte() {
    let secrets = [("TOKEN", "s3cret"), ("KEY", "s3cret-and-more")];
    let out = redacted(&secrets, &[b"\0\xff\xe2\x82s3cret\x1b[0m\r\n", b"s3cret-and-mor", b"e s3cret-and-mope"]);
    assert_eq!(out, b"\0\xff\xe2\x82[redacted TOKEN]\x1b[0m\r\n[redacted KEY] [redacted TOKEN]-and-mope");
}

#[test]
fn each_line_of_a_long_secret_is_hidden() {
    let key = "-----BEGIN-----\nMIIEowIBAAK\nab==\n-----END-----\n";
    let out = redacted(&[("PEM", key)], &[b"> MIIEowIBAAK\r\n> ab==\n> -----END-----\n"]);
    assert_eq!(out, b"> [redacted PEM]\r\n> [redacted PEM]\n> [redacted PEM]\n");
}

#[test]
fn only_what_may_become_a_secret_waits() {
    let (mut redactor, mut out) = (redactor(&[("A", "abcd"), ("B", "cdxyz")]), Vec::new());
    for (byte, passed) in [
        (b'-', "-"),
        (b'a', "-"),
        (b'b', "-"),
        (b'd', "-abd"),
        (b'a', "-abd"),
        (b'b', "-abd"),
        (b'c', "-abd"),
        // It is certain now, and the other one may have begun within it.
        (b'd', "-abd[redacted A]"),
        (b'x', "-abd[redacted A]"),
        (b'y', "-abd[redacted A]"),
        (b'z', "-abd[redacted A]"),
        (b'x', "-abd[redacted A]x"),
    ] {
        redactor.take(&[byte], |bytes| out.extend_from_slice(bytes));
        assert_eq!(String::from_utf8_lossy(&out), passed);
    }
}

#[test]
fn an_output_that_ends_within_a_secret_does_not_show_most_of_it() {
    assert_eq!(redacted(&[("A", "abcdefgh")], &[b"x abcdefg"]), b"x [redacted A]");
    assert_eq!(redacted(&[("A", "abcdefgh")], &[b"x abc"]), b"x abc");
}

#[test]
fn much_that_is_hidden_takes_no_more_memory_than_a_piece() {
    let long = "N".repeat(100);
    let (mut redactor, mut most, mut all) = (redactor(&[(&long, "aaaa")]), 0, 0);
    for _ in 0..100 {
        redactor.take("aaaa-".repeat(3_000).as_bytes(), |bytes| {
            most = most.max(bytes.len());
            all += bytes.len();
        });
    }
    assert!(most <= PIECE && redactor.held.len() < 4, "{most}");
    assert_eq!(all, 100 * 3_000 * ("[redacted ]-".len() + 100));
}

#[test]
fn where_nothing_is_named_or_set_there_is_nothing_to_do() {
    assert!(redactor(&[]).secrets.names.is_empty() && redactor(&[("EMPTY", " \n")]).secrets.names.is_empty());
}
