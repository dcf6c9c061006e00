/// The headings of `Semantics.md`, of which `SemanticsTests` has one `MARK` each, in this order.
package let semanticsHeadings = [
    "Saves", "Temporary files", "Renames", "Deletions", "Links", "Working files", "Authors", "Several mounts", "Read-only", "Limits",
    "Crashes",
]
