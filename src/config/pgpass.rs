//! The password file of libpq: `host:port:database:user:password` a line, `*` for any, `\` before `:` and `\`.

use std::{os::unix::fs::MetadataExt as _, path::Path};

/// The password for a connection, if the file has one. A file that others may read is not read, as with libpq.
pub(super) fn read(file: &Path, wanted: [&str; 4]) -> Option<String> {
    let metadata = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
    if metadata.mode() & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "the password file is not read, since others may: chmod 600 it");
        return None;
    }
    find(&std::fs::read_to_string(file).ok()?, wanted)
}

/// The password of the first line that fits `[host, port, database, user]`.
fn find(contents: &str, wanted: [&str; 4]) -> Option<String> {
    contents.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let [patterns @ .., password] = fields.as_slice() else { return None };
        let fits =
            patterns.len() == 4 && patterns.iter().zip(wanted).all(|((text, any), wanted)| *any || text == wanted);
        (fits && !password.0.is_empty()).then(|| password.0.clone())
    })
}

/// The fields of a line, each with whether it is an unescaped `*`. The password is the rest of the line.
fn fields(line: &str) -> Vec<(String, bool)> {
    let mut fields = vec![String::new()];
    let mut stars = vec![true];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        match c {
            ':' if last < 4 => {
                fields.push(String::new());
                stars.push(true);
            }
            '\\' => {
                fields[last].extend(chars.next());
                stars[last] = false;
            }
            _ => fields[last].push(c),
        }
    }
    fields.into_iter().zip(stars).map(|(text, plain)| (text.clone(), plain && text == "*")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# a comment\nlocalhost:5432:app:me:plain\n\\*:5432:*:*:star\nlocalhost:*:*:you:co\\:lon:and\\\\more\n";

    #[test]
    fn the_first_line_that_fits_wins() {
        assert_eq!(find(FILE, ["localhost", "5432", "app", "me"]).as_deref(), Some("plain"));
        assert_eq!(find(FILE, ["localhost", "6432", "x", "you"]).as_deref(), Some("co:lon:and\\more"));
        assert_eq!(find(FILE, ["*", "5432", "x", "y"]).as_deref(), Some("star"));
        assert_eq!(find(FILE, ["elsewhere", "5432", "app", "me"]), None);
        assert_eq!(find("localhost:5432:app", ["localhost", "5432", "app", "me"]), None);
    }
}
