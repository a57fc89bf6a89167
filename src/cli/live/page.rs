//! The document: places for what the script is told.

use axum::response::Response;
use driftheap::report::page::{SCRIPT, STYLE};
use maud::html;

use super::super::web::{Page, document};

const LIVE_STYLE: &str = include_str!("live.css");
const LIVE_SCRIPT: &str = include_str!("live.js");

/// The page; with buttons that move buffers where it may.
pub(super) fn response(control: bool) -> Response {
    let data = if control { "{\"control\":true}" } else { "{\"control\":false}" };
    let page = Page {
        title: "A running device",
        class: "live",
        styles: &[STYLE, LIVE_STYLE],
        scripts: &[SCRIPT, LIVE_SCRIPT],
        data: &[("start", data)],
    };
    let body = html! {
        header {
            h1 { "A running device" }
            p.hint {
                "Each box on the left is a process or a device; on the right is memory. An arrow is a mapping, \
                 a pin or a bus address that is held. A dashed arrow is stale: what it was taken for is no \
                 longer there. A red one did harm."
            }
        }
        main {
            div.controls role="group" aria-label="The picture" {
                button.hold type="button" aria-pressed="false" { "hold still" }
                p.state role="status" aria-live="polite" { "waiting for the device" }
            }
            p.summary {}
            div.stage {
                section aria-label="The drawing" {
                    div.drawing {}
                    details.inwords { summary { "The picture in words" } div.words {} }
                }
                div.beside {
                    section {
                        h2 { "Buffers" }
                        div.scroll tabindex="0" role="region" aria-label="The buffers" {
                            table {
                                thead { tr {
                                    th scope="col" { "buffer" } th scope="col" { "size" }
                                    th scope="col" { "where" } th scope="col" { "used by" }
                                    @if control { th scope="col" { "do" } }
                                } }
                                tbody.buffers {}
                            }
                        }
                        p.more {}
                        @if control { p.done role="status" aria-live="polite" {} }
                    }
                    section {
                        h2 { "Findings" }
                        p.none {}
                        ol.findings {}
                    }
                    section {
                        h2 { "As it happens" }
                        div.log tabindex="0" role="region" aria-label="The last events, the newest first" {
                            ol.events {}
                        }
                    }
                }
            }
        }
    };
    document(&page, &body)
}
