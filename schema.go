package preauth

import _ "embed"

// Schema is schema.sql: the statements that create the service's tables, each of which may be run
// again at any time. A statement ends with a semicolon at the end of a line, and nothing else does.
// [preauth/repo.Repo.ApplySchema] runs them.
//
//go:embed schema.sql
var Schema string
