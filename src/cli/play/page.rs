//! The document: an editor, the lessons, and a place for the answer.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use driftheap::report::page::{SCRIPT, STYLE};
use driftheap::report::reference;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::lessons::CHAPTERS;
use super::refuse;

const PLAY_STYLE: &str = include_str!("play.css");
const PLAY_SCRIPT: &str = include_str!("play.js");

/// The document. `nonce` marks what is ours: nothing else may run, whatever a question contains.
pub(super) fn response(first: &(String, String), nonce: &str) -> Response {
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let Ok(rules) = serde_json::to_string(&reference::rules()) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the rules can't be told");
    };
    let text = document(first, nonce, &rules.replace('<', "\\u003c")).into_string();
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
    ];
    (headers, text).into_response()
}

fn document((file, text): &(String, String), nonce: &str, rules: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { "Play - driftheap" }
                style nonce=(nonce) { (PreEscaped(STYLE)) (PreEscaped(PLAY_STYLE)) }
            }
            body.playing {
                header { h1 { "A heap whose buffers move" } }
                (lessons())
                main { (editor(file, text)) section.answer aria-label="The answer" {} }
                script.rules type="application/json" nonce=(nonce) { (PreEscaped(rules)) }
                script nonce=(nonce) { (PreEscaped(SCRIPT)) }
                script nonce=(nonce) { (PreEscaped(PLAY_SCRIPT)) }
            }
        }
    }
}

fn lessons() -> Markup {
    html! {
        nav aria-label="Lessons" {
            details.lessons {
                summary { "Lessons" }
                @for chapter in CHAPTERS {
                    h2 { (chapter.title) }
                    ol {
                        @for (name, sentence) in chapter.lessons {
                            li { button type="button" data-lesson=(name) { (name) } p { (sentence) } }
                        }
                    }
                }
            }
        }
    }
}

fn editor(file: &str, text: &str) -> Markup {
    html! {
        section.editor aria-label="The question" {
            div.head {
                h2.title { (file) }
                div.controls role="group" aria-label="The text" {
                    button.undo type="button" disabled { "undo the flip" }
                    button.reset type="button" { "as it was" }
                }
            }
            div.columns {
                div {
                    label.hidden for="question" { "The text of the question" }
                    textarea #question spellcheck="false" autocapitalize="off" autocomplete="off"
                        wrap="off" aria-describedby="mistakes" { "\n" (text) }
                }
                div.side {
                    p.state role="status" aria-live="polite" {}
                    ol.mistakes id="mistakes" aria-label="Mistakes" {}
                    details.rules open { summary { "Flip a rule" } div.blocks {} }
                    div.controls role="group" aria-label="Real memory" {
                        button.replay type="button" { "replay on real memory" }
                        button.hunt type="button" { "hunt: race it" }
                        button.cancel type="button" disabled { "cancel" }
                    }
                    p.progress role="status" aria-live="polite" {}
                    pre.real tabindex="0" role="region" aria-label="What real memory said" hidden {}
                }
            }
        }
    }
}
