package preauth

import _ "embed"

// Schema is the text of schema.sql: the statements that create the service's tables. Each may run
// again at any time. A statement ends with a semicolon at the end of a line; no other line ends
// with one. [preauth/repo.Repo.ApplySchema] runs them.
//
//go:embed schema.sql
var Schema string
