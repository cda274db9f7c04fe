package preauth

// ParseLookupRequest reads a look-up. appid is the component that the subject names, "" if it names
// none; then the body has to, and otherwise the body may be empty. An error wraps [ErrInvalid].
func ParseLookupRequest(appid string, body []byte) (LookupRequest, error) {
	if len(body) == 0 { // as most are, which then costs no memory
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
	if r.AppID, err = sameAppID(appid, inBody); err != nil {
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

// ParseClaimRequest reads a claim. appid is the component that the subject names, "" if it names
// none; then the body has to, and otherwise the body may be empty. An error wraps [ErrInvalid].
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
	if r.AppID, err = sameAppID(appid, inBody); err != nil {
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

// ParseResolveRequest reads the request to resolve a code. An error wraps [ErrInvalid].
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

// sameAppID returns the component that a message names in its subject, its body or both.
func sameAppID(inSubject, inBody string) (string, error) {
	appid := inBody
	if appid == "" {
		appid = inSubject
	}
	if err := CheckAppID(appid); err != nil {
		return "", err
	}
	if inSubject != "" && inSubject != appid {
		return "", invalid("subject and body name different components: leave component_appid out of one of them")
	}
	return appid, nil
}
