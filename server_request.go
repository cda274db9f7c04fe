package preauth

import (
	"cmp"
	"encoding/json"
)

// ParseLookupRequest parses a look-up. appid is the component in the request's subject, "" if the
// subject names none; the body must then name it, and otherwise may be empty. An error wraps
// [ErrInvalid].
func ParseLookupRequest(appid string, body []byte) (LookupRequest, error) {
	if len(body) == 0 { // most are, and then allocate nothing
		r := LookupRequest{AppID: appid}
		if err := r.check(); err != nil {
			return LookupRequest{}, err
		}
		return r, nil
	}
	var (
		r      LookupRequest
		inBody bodyAppID
		minTTL int64
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &inBody},
		{name: "min_ttl", into: &minTTL},
		{name: "min_revision", into: &r.MinRevision},
		{name: "redirect_uri", into: &r.RedirectURI},
		{name: "auth_type", into: &r.AuthType},
		{name: "biz_appid", into: &r.BizAppID},
		{name: "category_id_list", into: &r.CategoryIDList},
	})
	if err != nil {
		return LookupRequest{}, err
	}
	if r.AppID, err = inBody.agreeWith(appid); err != nil {
		return LookupRequest{}, err
	}
	if r.MinTTL, err = seconds(minTTL, "min_ttl"); err != nil {
		return LookupRequest{}, err
	}
	if err := r.check(); err != nil {
		return LookupRequest{}, err
	}
	return r, nil
}

// ParseClaimRequest parses a claim. appid is the component in the request's subject, "" if the
// subject names none; the body must then name it, and otherwise may be empty. An error wraps
// [ErrInvalid].
func ParseClaimRequest(appid string, body []byte) (ClaimRequest, error) {
	var (
		r      ClaimRequest
		inBody bodyAppID
		minTTL int64
	)
	if len(body) > 0 {
		err := decodeObject(body, []member{
			{name: "component_appid", into: &inBody},
			{name: "claim_id", into: &r.ClaimID},
			{name: "reference", into: &r.Reference},
			{name: "min_ttl", into: &minTTL},
			{name: "redirect_uri", into: &r.RedirectURI},
			{name: "auth_type", into: &r.AuthType},
			{name: "biz_appid", into: &r.BizAppID},
			{name: "category_id_list", into: &r.CategoryIDList},
		})
		if err != nil {
			return ClaimRequest{}, err
		}
	}
	var err error
	if r.AppID, err = inBody.agreeWith(appid); err != nil {
		return ClaimRequest{}, err
	}
	if r.MinTTL, err = seconds(minTTL, "min_ttl"); err != nil {
		return ClaimRequest{}, err
	}
	if err := r.check(); err != nil {
		return ClaimRequest{}, err
	}
	return r, nil
}

// ParseResolveRequest parses a request to resolve a code. An error wraps [ErrInvalid].
func ParseResolveRequest(body []byte) (ResolveRequest, error) {
	var code string
	if err := decodeObject(body, []member{{name: "pre_auth_code", into: &code}}); err != nil {
		return ResolveRequest{}, err
	}
	r := ResolveRequest{NewSecret(code)}
	if err := r.check(); err != nil {
		return ResolveRequest{}, err
	}
	return r, nil
}

// ParseStatusRequest parses a request for how components fare. appid is the component in the
// request's subject, "" if the subject names none. The body may be empty. An error wraps
// [ErrInvalid].
func ParseStatusRequest(appid string, body []byte) (StatusRequest, error) {
	var (
		r      StatusRequest
		inBody bodyAppID
	)
	if len(body) > 0 {
		err := decodeObject(body, []member{
			{name: "component_appid", into: &inBody},
			{name: "state", into: (*string)(&r.State)},
			{name: "prefix", into: &r.Prefix},
			{name: "after", into: &r.After},
		})
		if err != nil {
			return StatusRequest{}, err
		}
	}
	if appid != "" || inBody.text != "" {
		var err error
		if r.AppID, err = inBody.agreeWith(appid); err != nil {
			return StatusRequest{}, err
		}
	}
	if err := r.check(); err != nil {
		return StatusRequest{}, err
	}
	return r, nil
}

// ParseRenewRequest parses a request to work on a component now. appid is the component in the
// request's subject, "" if the subject names none; the body must then name it, and otherwise may be
// empty. An error wraps [ErrInvalid].
func ParseRenewRequest(appid string, body []byte) (RenewRequest, error) {
	var inBody bodyAppID
	if len(body) > 0 {
		if err := decodeObject(body, []member{{name: "component_appid", into: &inBody}}); err != nil {
			return RenewRequest{}, err
		}
	}
	named, err := inBody.agreeWith(appid)
	if err != nil {
		return RenewRequest{}, err
	}
	return RenewRequest{named}, nil
}

// bodyAppID is the component_appid in a body. A body that repeats it may name several components.
type bodyAppID struct {
	text    string
	several bool
}

// UnmarshalJSON is called each time that the member appears.
func (b *bodyAppID) UnmarshalJSON(value []byte) error {
	var text string // stays empty for a null
	if err := json.Unmarshal(value, &text); err != nil {
		return err
	}
	if text != "" {
		b.several = b.several || b.text != "" && b.text != text
		b.text = text
	}
	return nil
}

// agreeWith returns the component that a message names in its body, its subject or both. The error
// says why there is no such component, or no single one.
func (b *bodyAppID) agreeWith(inSubject string) (string, error) {
	appid := cmp.Or(b.text, inSubject)
	if err := CheckAppID(appid); err != nil {
		return "", err
	}
	if b.several || inSubject != "" && inSubject != appid {
		return "", invalid("the subject and the body name different components: correct one, or remove component_appid from the body")
	}
	return appid, nil
}
