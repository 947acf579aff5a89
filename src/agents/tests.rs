//! What a payload can and cannot do to a command.

use std::{collections::BTreeMap, ffi::OsString};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{JobId, RunId};

fn agent(command: &[&str]) -> Agent {
    Agent {
        name: "a".to_owned(),
        command: command.iter().map(|&element| element.to_owned()).collect(),
        env: BTreeMap::new(),
        pass_env: Vec::new(),
        redact: Vec::new(),
        cwd: None,
        user: None,
        stdin: Stdin::Payload,
        timeout: None,
        silence_timeout: None,
        max_attempts: 3,
        backoff: Backoff::default(),
        on_lost: OnLost::Requeue,
        containment: None,
        memory_max: None,
        pids_max: None,
        success_codes: vec![0],
        limits: Vec::new(),
    }
}

fn job() -> JobFacts {
    JobFacts {
        job_id: JobId(7),
        run_id: RunId::new(),
        attempt: 2,
        project: "default".to_owned(),
        payload_file: "/runs/x/payload.json".into(),
        result_file: "/runs/x/result.json".into(),
        previous_error: None,
    }
}

fn argv(command: &[&str], payload: &Value) -> Result<Vec<String>, RenderError> {
    render(&agent(command), &job(), payload, &|_| None).map(|command| command.argv)
}

fn cwd(template: &str, payload: &Value) -> Result<Option<PathBuf>, RenderError> {
    let agent = Agent { cwd: Some(template.into()), ..agent(&["true"]) };
    render(&agent, &job(), payload, &|_| None).map(|command| command.cwd)
}

/// Texts that a shell, a terminal, an option parser or a template engine would make something of.
fn wild() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(vec![
        "; rm -rf /",
        "$(id)",
        "`id`",
        "--flag",
        "-rf",
        "'",
        "\"",
        "\\",
        "\n",
        "\r\n",
        "\t",
        " ",
        "\u{1b}[31m",
        "*",
        "~",
        "{{ payload.x }}",
        "{{{{",
        "}}",
        "&& true",
        "|",
        ">",
        "\u{202e}",
        "\u{feff}",
        "%s",
        "é",
        "",
    ]);
    let any = "[^\\x00]{0,40}".prop_map(|text| text);
    prop::collection::vec(prop_oneof![nasty.prop_map(str::to_owned), any], 0..5).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn a_text_arrives_as_exactly_one_argument_byte_for_byte(text in wild()) {
        let got = argv(&["tool", "--", "{{ payload.deep.x }}", "pre-{{payload.deep.x}}-post"], &json!({"deep": {"x": text}}));
        prop_assert_eq!(got.unwrap(), vec!["tool".to_owned(), "--".to_owned(), text.clone(), format!("pre-{text}-post")]);
    }

    #[test]
    fn a_list_arrives_as_its_values_one_argument_each(texts in prop::collection::vec(wild(), 0..6)) {
        let got = argv(&["tool", "{{ payload.args }}", "end"], &json!({"args": texts})).unwrap();
        let expected: Vec<String> =
            std::iter::once("tool".to_owned()).chain(texts).chain(std::iter::once("end".to_owned())).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn the_program_never_changes(payload in wild(), list in prop::collection::vec(wild(), 0..4)) {
        if let Ok(got) = argv(&["/bin/tool", "{{ payload.x }}", "{{ payload.y }}"], &json!({"x": payload, "y": list})) {
            prop_assert_eq!(&got[0], "/bin/tool");
        }
    }

    #[test]
    fn a_payload_never_reaches_the_environment_but_the_facts_do(text in wild()) {
        let command = render(&agent(&["tool"]), &job(), &json!({"PATH": text, "env": {"PATH": text}}), &|_| None).unwrap();
        let names: Vec<&str> = command.env.iter().map(|(name, _)| name.as_str()).collect();
        let expected = ["LANG", "ORCH_ATTEMPT", "ORCH_JOB_ID", "ORCH_PAYLOAD_FILE", "ORCH_PROJECT", "ORCH_RESULT_FILE", "ORCH_RUN_ID", "PATH"];
        prop_assert_eq!(names, expected);
    }

    #[test]
    fn a_working_directory_stays_below_what_the_template_writes(text in prop_oneof![wild(), "[./a]{0,8}"]) {
        for template in ["/srv/{{ payload.x }}", "/srv/.{{ payload.x }}", "/srv/a/{{ payload.x }}.{{ payload.x }}"] {
            if let Ok(Some(path)) = cwd(template, &json!({"x": text})) {
                prop_assert!(path.starts_with("/srv"), "{}", path.display());
                let below = path.strip_prefix("/srv").unwrap();
                prop_assert!(below.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{}", path.display());
            }
        }
    }

    #[test]
    fn a_literal_is_the_template_of_its_text(text in wild()) {
        prop_assert_eq!(plain(&literal(&text)), Some(text.clone()));
    }
}

#[test]
fn facts_and_scalars_are_texts() {
    let payload = json!({"n": 3, "f": 0.5, "b": true, "list": ["x", 9], "deep": {"a-b": "c"}});
    let got = argv(
        &[
            "t",
            "{{job.id}}/{{ attempt }}/{{ project }}",
            "{{payload.n}}{{payload.f}}{{payload.b}}",
            "{{ payload.list.1 }}",
            "{{ payload.deep.a-b }}",
            "{{{{ x }}",
        ],
        &payload,
    );
    assert_eq!(got.unwrap(), ["t", "7/2/default", "30.5true", "9", "c", "{{ x }}"]);
    let facts = job();
    let command = render(&agent(&["t", "{{ run.id }}"]), &facts, &json!({}), &|_| None).unwrap();
    assert_eq!(command.argv[1], facts.run_id.to_string());
}

#[test]
fn what_does_not_fit_names_the_template_and_the_key() {
    let payload = json!({"o": {}, "l": ["x"], "null": null, "nul": "a\u{0}b", "nested": [["x"]]});
    for (template, words) in [
        ("{{ payload.none }}", "needs payload.none, which the payload does not have"),
        ("{{ payload.null }}", "needs payload.null"),
        ("{{ payload.l.9 }}", "needs payload.l.9"),
        ("{{ payload.o }}", "cannot use payload.o, which is an object"),
        ("{{ payload }}", "cannot use payload, which is an object"),
        ("x{{ payload.l }}", "cannot use payload.l, which is a list"),
        ("{{ payload.nested }}", "cannot use payload.nested, which is a list: write a flat list"),
        ("{{ payload.nul }}", "argument 1 would hold a NUL byte"),
    ] {
        let error = argv(&["t", template], &payload).unwrap_err().to_string();
        assert!(error.contains(words), "{template}: {error}");
    }
}

#[test]
fn the_working_directory_refuses_to_leave() {
    for bad in ["..", "../x", "a/../..", "/etc", "", ".", "a/./b", "\u{0}"] {
        assert!(cwd("/srv/{{ payload.x }}", &json!({"x": bad})).is_err(), "{bad:?}");
    }
    assert!(cwd("/srv/.{{ payload.x }}", &json!({"x": "."})).is_err(), "two dots from two places");
    assert_eq!(cwd("/srv/{{ payload.x }}", &json!({"x": "a/b"})).unwrap(), Some("/srv/a/b".into()));
    assert_eq!(cwd("/a/../b", &json!({})).unwrap(), Some("/a/../b".into()), "what the file writes is the file's");
}

#[test]
fn the_environment_is_an_allow_list() {
    let host = |name: &str| -> Option<OsString> {
        match name {
            "PATH" => Some("/host/bin".into()),
            "HOME" => Some("/home/me".into()),
            "SECRET" => Some("s".into()),
            _ => None,
        }
    };
    let mut agent = agent(&["t"]);
    agent.pass_env = vec!["HOME".to_owned(), "UNSET".to_owned()];
    agent.env = BTreeMap::from([("LANG".to_owned(), "de".to_owned())]);
    let facts = JobFacts { previous_error: Some("ä".repeat(MAX_PREVIOUS_ERROR) + "\u{0}"), ..job() };
    let command = render(&agent, &facts, &json!({}), &host).unwrap();
    let get = |name: &str| command.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(get("PATH"), Some("/host/bin"));
    assert_eq!(get("HOME"), Some("/home/me"));
    assert_eq!(get("LANG"), Some("de"));
    assert_eq!((get("SECRET"), get("UNSET")), (None, None));
    assert_eq!(get("ORCH_PREVIOUS_ERROR").map(str::len), Some(MAX_PREVIOUS_ERROR));
    assert_eq!(get("ORCH_JOB_ID"), Some("7"));
}

#[test]
fn an_agents_debug_shows_no_value_of_its_environment() {
    let mut agent = agent(&["t"]);
    agent.env = BTreeMap::from([("TOKEN".to_owned(), "hunter2".to_owned())]);
    let shown = format!("{agent:?}");
    assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_hole_that_may_be_an_option_is_warned_of() {
    assert_eq!(warnings(&agent(&["rm", "{{ payload.x }}"])).len(), 1);
    assert_eq!(warnings(&agent(&["rm", "--", "{{ payload.x }}"])).len(), 0);
    assert_eq!(warnings(&agent(&["rm", "--file={{ payload.x }}", "{{ job.id }}"])).len(), 0);
}

#[test]
fn a_secret_that_cannot_be_hidden_starts_nothing_and_is_not_quoted() {
    let host = |name: &str| (name == "TOKEN").then(|| OsString::from("xyz\nab"));
    let mut agent = agent(&["t"]);
    (agent.pass_env, agent.redact) =
        (vec!["TOKEN".to_owned(), "UNSET".to_owned()], vec!["UNSET".to_owned(), "TOKEN".to_owned()]);
    let refused = render(&agent, &job(), &json!({}), &host).unwrap_err();
    assert_eq!(refused, RenderError::TooShort { name: "TOKEN".to_owned() });
    assert!(!refused.to_string().contains("xyz"), "{refused}");
    agent.env = BTreeMap::from([("TOKEN".to_owned(), "longer".to_owned())]);
    assert!(render(&agent, &job(), &json!({}), &host).is_ok(), "it is what the run gets that counts");
}
