//! The document: an editor, the lessons, and a place for the answer.

use axum::http::StatusCode;
use axum::response::Response;
use driftheap::report::page::{SCRIPT, STYLE};
use driftheap::report::reference;
use maud::{Markup, html};

use super::super::web::{Page, document, refuse};
use super::lessons::CHAPTERS;

const PLAY_STYLE: &str = include_str!("play.css");
const PLAY_SCRIPT: &str = include_str!("play.js");

pub(super) fn response((file, text): &(String, String)) -> Response {
    let Ok(rules) = serde_json::to_string(&reference::rules()) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the rules can't be told");
    };
    let page = Page {
        title: "Play",
        class: "playing",
        styles: &[STYLE, PLAY_STYLE],
        scripts: &[SCRIPT, PLAY_SCRIPT],
        data: &[("rules", &rules)],
    };
    let body = html! {
        header { h1 { "A heap whose buffers move" } }
        (lessons())
        main { (editor(file, text)) section.answer aria-label="The answer" {} }
    };
    document(&page, &body)
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
