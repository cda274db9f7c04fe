package app

import (
	"errors"

	"preauth/internal/doctor"
)

// Patient returns what the settings describe, for an examination. Nothing is connected yet. The
// caller closes the database and the client for WeChat. The error says all that is wrong with the
// settings.
func (s Service) Patient() (doctor.Patient, error) {
	var (
		p    doctor.Patient
		errs [5]error
	)
	p.Config, errs[0] = s.config()
	p.NATS, errs[1] = s.NATS.Options()
	p.DB, errs[2] = s.MySQL.Open()
	p.WeChat, errs[3] = s.WeChat.client()
	errs[4] = checkTraceVariables()
	if err := errors.Join(errs[:]...); err != nil {
		if p.DB != nil {
			err = errors.Join(err, p.DB.Close())
		}
		return doctor.Patient{}, err
	}
	p.Database, p.Connections, p.CallTimeout = s.MySQL.where(), s.MySQL.Connections, s.WeChat.Timeout
	p.Proxy, _ = proxy() // the client has checked it
	return p, nil
}
