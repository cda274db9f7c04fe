package preauth

// Class says what kind of failure it is, and thereby what ends it.
// Package wechat maps WeChat's error codes to classes.
type Class string

// The classes as they appear on the wire. Treat a class that is not listed here like
// [ClassUnknown]: a newer service may send more.
const (
	// ClassTransient passes by itself: errcode -1, HTTP 5xx and 429, network errors, time-outs.
	ClassTransient Class = "transient"
	// ClassThrottled is WeChat's limit per minute (45011).
	ClassThrottled Class = "throttled"
	// ClassQuota is WeChat's limit per day (45009, 48006). WeChat's day begins at midnight UTC+8.
	ClassQuota Class = "quota"
	// ClassTokenRejected means that WeChat does not accept the token. Only a newer token helps.
	ClassTokenRejected Class = "token_rejected"
	// ClassAddressNotAllowed means that the caller's address is not on WeChat's allow-list. An
	// operator has to add the address, which is in the failure's request_ip.
	ClassAddressNotAllowed Class = "address_not_allowed"
	// ClassConfiguration means that the platform's account is not set up for the call. An operator
	// has to act.
	ClassConfiguration Class = "configuration"
	// ClassRequest means that WeChat objects to the request itself, which is a bug in the service.
	ClassRequest Class = "request"
	// ClassUnknown is an error code that no other class lists.
	ClassUnknown Class = "unknown"
	// ClassBadReply is a reply without a usable code: a redirect, an unreadable body, no code, an
	// impossible expires_in. The service retries it like [ClassTransient].
	ClassBadReply Class = "bad_reply"
	// ClassBadEvent is an event that cannot be parsed or has impossible values.
	ClassBadEvent Class = "bad_event"
	// ClassTokenExpired means that the token had expired when its event arrived, or expired before
	// WeChat gave a code.
	ClassTokenExpired Class = "token_expired"
	// ClassUnknownCode is an authorization with a code that the service does not know, or that
	// belongs to another component.
	ClassUnknownCode Class = "unknown_code"
	// ClassSecondAuthorizer is an authorization with a code that another account authorized with
	// before. WeChat refuses that, so it should not happen.
	ClassSecondAuthorizer Class = "second_authorizer"
)

// Advice says what ends a failure of the class, in English and for a person. It is "" for a class
// that is not listed here.
func (c Class) Advice() string {
	switch c {
	case ClassTransient, ClassBadReply:
		return "nothing if it passes; if it lasts, look whether the service reaches WeChat's API"
	case ClassThrottled:
		return "nothing if it passes; if it recurs, look for what asks WeChat too often"
	case ClassQuota:
		return "wait for midnight UTC+8, or have WeChat raise the quota"
	case ClassTokenRejected:
		return "have the token service announce a newer token"
	case ClassTokenExpired:
		return "have the token service announce the current token"
	case ClassAddressNotAllowed:
		return "add request_ip to the component's IP allow-list on WeChat's open platform"
	case ClassConfiguration, ClassUnknown:
		return "look errcode up at WeChat; somebody with the platform's account has to act"
	case ClassRequest:
		return "report errcode, errmsg and rid: it is a bug in the service"
	case ClassBadEvent:
		return "mend the program that publishes the event; errmsg says what is wrong"
	case ClassUnknownCode:
		return "look whether another program makes codes for the same component"
	case ClassSecondAuthorizer:
		return "look whether the receiver of WeChat's pushes mixes up two pushes"
	}
	return ""
}

// Classes returns all classes.
func Classes() []Class {
	return []Class{
		ClassTransient, ClassThrottled, ClassQuota, ClassTokenRejected, ClassAddressNotAllowed, ClassConfiguration,
		ClassRequest, ClassUnknown, ClassBadReply, ClassBadEvent, ClassTokenExpired, ClassUnknownCode, ClassSecondAuthorizer,
	}
}
