package preauth

// Class says what kind of failure kept a component without a new code, and so what ends it.
// The classes and the WeChat error codes behind them are those of WeChat's error table; the client
// of package wechat assigns them.
type Class string

// The classes as they appear on the wire.
const (
	// ClassTransient passes by itself: errcode -1, HTTP 5xx and 429, network errors, time-outs.
	ClassTransient Class = "transient"
	// ClassThrottled is WeChat's limit per minute (45011).
	ClassThrottled Class = "throttled"
	// ClassQuota is WeChat's limit per day (45009, 48006); the day begins at midnight UTC+8.
	ClassQuota Class = "quota"
	// ClassTokenRejected means that this token is dead; only a newer one helps.
	ClassTokenRejected Class = "token_rejected"
	// ClassAddressNotAllowed means that WeChat's allow-list lacks the caller's address; an operator
	// has to add the address, which the failure carries.
	ClassAddressNotAllowed Class = "address_not_allowed"
	// ClassConfiguration means that the platform's account is set up wrongly; an operator has to act.
	ClassConfiguration Class = "configuration"
	// ClassRequest means that WeChat found fault with the request itself: a defect of this service.
	ClassRequest Class = "request"
	// ClassUnknown is any error code outside WeChat's table.
	ClassUnknown Class = "unknown"
	// ClassBadReply is an answer that holds no usable code: a redirect, an unreadable body, no code,
	// an impossible expires_in. Retried like [ClassTransient].
	ClassBadReply Class = "bad_reply"
	// ClassBadEvent is a token event that cannot be understood or carries impossible values.
	ClassBadEvent Class = "bad_event"
	// ClassTokenExpired is a token event whose token was dead on arrival, or died before a code came.
	ClassTokenExpired Class = "token_expired"
)
