package preauth

import _ "embed"

// Schema is schema.sql: the statements that create the service's tables. Each can be repeated at any time.
// A semicolon at the end of a line ends a statement, and stands nowhere else.
// [preauth/repo.Repo.ApplySchema] runs them.
//
//go:embed schema.sql
var Schema string
