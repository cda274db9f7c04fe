package preauth

import _ "embed"

// Schema is the text of schema.sql: the statements that create the service's tables in their newest
// shape, and record its version. Each may run again at any time. A statement begins at the start of a
// line and ends with a semicolon at the end of one; no other line ends with one.
// [preauth/repo.Repo.ApplySchema] runs them, and changes tables of an older shape.
//
//go:embed schema.sql
var Schema string
