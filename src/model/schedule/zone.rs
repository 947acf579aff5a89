//! Time zones by their names.
//!
//! Their rules are the machine's (`/usr/share/zoneinfo`), so that an update of the system is one here too, else those that
//! were compiled in: the one thing that the model takes from outside its arguments.

use jiff::tz::{TimeZone, db};

use super::Fault;

/// A time zone by its name in the IANA database, to the letter.
pub fn find(name: &str) -> Result<TimeZone, Fault> {
    // The name goes to the database and to other replicas: one spelling, that each of them knows.
    match TimeZone::get(name) {
        Ok(zone) if zone.iana_name() == Some(name) => Ok(zone),
        Ok(zone) => Err(unknown(name, zone.iana_name().map(str::to_owned))),
        Err(_) => Err(unknown(name, nearest(name))),
    }
}

fn unknown(name: &str, nearest: Option<String>) -> Fault {
    Fault(match nearest {
        Some(nearest) => format!("there is no time zone {name:?}: did you mean {nearest:?}?"),
        None => format!("there is no time zone {name:?}: it has a name such as UTC, Europe/Berlin or America/New_York"),
    })
}

/// The zone whose name, or city, is spelled most like this.
fn nearest(name: &str) -> Option<String> {
    let wanted = name.to_lowercase().replace(' ', "_");
    let distance = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        let city = candidate.rsplit('/').next().unwrap_or(&candidate);
        let city_wanted = wanted.rsplit('/').next().unwrap_or(&wanted);
        let whole = strsim::damerau_levenshtein(&wanted, &candidate);
        // A city of that name in another place is nearer than a name that only looks alike.
        whole.min(strsim::damerau_levenshtein(city_wanted, city) * 2 + usize::from(wanted.contains('/')))
    };
    let known: Vec<String> = db().available().map(|name| name.as_str().to_owned()).collect();
    let (found, distance) =
        known.iter().map(|name| (name, distance(name))).min_by_key(|(name, distance)| (*distance, name.len()))?;
    (distance <= (wanted.chars().count() / 3).max(1)).then(|| found.clone())
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_zone_has_one_name_and_a_wrong_one_gets_the_nearest() {
        for good in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"] {
            assert!(find(good).is_ok(), "{good}");
        }
        for (bad, nearest) in [
            ("Europe/Berlni", "Europe/Berlin"),
            ("europe/berlin", "Europe/Berlin"),
            ("Berlin", "Europe/Berlin"),
            ("America/New York", "America/New_York"),
            ("Germany/Berlin", "Europe/Berlin"),
            ("utc", "UTC"),
        ] {
            let fault = find(bad).unwrap_err().to_string();
            assert!(fault.contains(&format!("did you mean {nearest:?}")), "{bad}: {fault}");
        }
        for bad in ["", "Middle-earth/Hobbiton", "+02:00", "/etc/passwd"] {
            let fault = find(bad).unwrap_err().to_string();
            assert!(fault.contains("it has a name such as"), "{bad}: {fault}");
        }
    }
}
