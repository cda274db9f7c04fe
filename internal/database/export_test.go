package database

// CheckSession returns an error if a session does not hold what the promises rest on.
var CheckSession = checkSession
