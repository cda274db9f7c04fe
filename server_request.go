package preauth

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
		inBody string
		minTTL int64
	)
	err := decodeObject(body, []member{
		{name: "component_appid", into: &inBody},
		{name: "min_ttl", into: &minTTL},
		{name: "min_revision", into: &r.MinRevision},
		{name: "redirect_uri", into: &r.RedirectURI},
		{name: "auth_type", into: &r.AuthType},
		{name: "biz_appid", into: &r.BizAppID},
	})
	if err != nil {
		return LookupRequest{}, err
	}
	if r.AppID, err = agreeOnAppID(appid, inBody); err != nil {
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
		inBody string
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
		})
		if err != nil {
			return ClaimRequest{}, err
		}
	}
	var err error
	if r.AppID, err = agreeOnAppID(appid, inBody); err != nil {
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

// agreeOnAppID returns the component that a message names in its subject, its body or both.
func agreeOnAppID(inSubject, inBody string) (string, error) {
	appid := inBody
	if appid == "" {
		appid = inSubject
	}
	if err := CheckAppID(appid); err != nil {
		return "", err
	}
	if inSubject != "" && inSubject != appid {
		return "", invalid("the subject and the body name different components: correct one, or remove component_appid from the body")
	}
	return appid, nil
}
