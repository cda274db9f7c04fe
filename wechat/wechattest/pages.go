package wechattest

import (
	"cmp"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"preauth"
)

// The paths of WeChat's authorization pages. WeChat has them on hosts of their own; here they are
// below [Server.URL].
const (
	pcPage     = "/cgi-bin/componentloginpage"
	mobilePage = "/wxaopen/safe/bindcomponent"
)

// Visit is a visit of an authorization page, or a call of the plug-in, that WeChat takes. The visitor
// may then authorize: see [Server.Authorize].
type Visit struct {
	AppID       string
	PreAuthCode preauth.Secret
	// Options are what the account's owner is asked for. RedirectURI is "" for the plug-in.
	Options preauth.LinkOptions
}

// Visits returns the visits so far, in order.
func (s *Server) Visits() []Visit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.visits)
}

// OpenAuthorizeAccount calls the method of WeChat's mini-program plug-in. The error says which
// parameter WeChat refuses.
func (s *Server) OpenAuthorizeAccount(plugin preauth.Plugin) error {
	visit := Visit{plugin.PlatformAppID, plugin.PreAuthCode, preauth.LinkOptions{AuthType: plugin.AuthType, BizAppID: plugin.BizAppID}}
	if plugin.AuthType < 1 || plugin.AuthType > 3 {
		return fmt.Errorf("authType must be 1 to 3, not %d", plugin.AuthType)
	}
	return s.visit(visit)
}

// servePage shows an authorization page: status 200 if WeChat takes the parameters, and otherwise 400
// with the reason. The page has a form with an account's appid, authorizer_appid. Sending it
// authorizes, and leads to redirect_uri with an auth_code. fixed are parameters that always have the
// same value.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request, fixed url.Values) {
	visit, err := readVisit(r, fixed)
	if err == nil && r.Method == http.MethodPost {
		var back string
		if back, err = s.submit(visit, r.PostFormValue("authorizer_appid")); err == nil {
			http.Redirect(w, r, back, http.StatusSeeOther) //nolint:gosec // WeChat's pages lead to redirect_uri
			return
		}
	}
	if err == nil {
		err = s.visit(visit)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	body := fmt.Sprintf("Authorize %s\n"+`<form method="post"><input name="authorizer_appid" value="%s"><button>Authorize</button></form>`,
		html.EscapeString(visit.AppID), html.EscapeString(cmp.Or(visit.Options.BizAppID, "wxvisitor")))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		body = html.EscapeString(err.Error())
	}
	_, _ = fmt.Fprintf(w, "<!DOCTYPE html>\n<html><body>%s</body></html>\n", body)
}

// submit authorizes what a visit asks for, and returns where WeChat sends the visitor then.
func (s *Server) submit(v Visit, authorizer string) (back string, err error) {
	if !bizAppID.MatchString(authorizer) {
		return "", errors.New("authorizer_appid must be an appid")
	}
	if appid, _, ok := s.issued(v.PreAuthCode); ok && appid != v.AppID {
		return "", errOtherComponent
	}
	authCode, err := s.authorize(v.PreAuthCode, authorizer)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(v.Options.RedirectURI)
	if err != nil {
		return "", err
	}
	query := u.Query()
	query.Set("auth_code", authCode)
	query.Set("expires_in", strconv.Itoa(int(authorizationCodeLife/time.Second)))
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// readVisit reads the query of an authorization page. Each parameter appears once, and no other does.
func readVisit(r *http.Request, fixed url.Values) (Visit, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return Visit{}, errors.New("a page is opened with GET")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Visit{}, errors.New("the query is malformed")
	}
	known := []string{"component_appid", "pre_auth_code", "redirect_uri", "auth_type", "biz_appid", "category_id_list"}
	for name, values := range query {
		switch {
		case len(values) > 1:
			return Visit{}, fmt.Errorf("%s appears twice", name)
		case !slices.Contains(known, name) && fixed[name] == nil:
			return Visit{}, fmt.Errorf("%s is not a parameter of this page", name)
		case values[0] == "":
			return Visit{}, fmt.Errorf("%s is empty", name)
		}
	}
	for name := range fixed {
		if query.Get(name) != fixed.Get(name) {
			return Visit{}, fmt.Errorf("%s must be %s", name, fixed.Get(name))
		}
	}
	back, err := url.Parse(query.Get("redirect_uri"))
	if err != nil || back.Scheme != "https" && back.Scheme != "http" || back.Host == "" {
		return Visit{}, errors.New("redirect_uri must be an absolute http or https URL")
	}
	authType, err := strconv.Atoi(query.Get("auth_type"))
	if err != nil {
		return Visit{}, errors.New("auth_type must be a number")
	}
	return Visit{
		AppID: query.Get("component_appid"), PreAuthCode: preauth.NewSecret(query.Get("pre_auth_code")),
		Options: preauth.LinkOptions{
			RedirectURI: query.Get("redirect_uri"), AuthType: authType,
			BizAppID: query.Get("biz_appid"), CategoryIDList: query.Get("category_id_list"),
		},
	}, nil
}

var errOtherComponent = errors.New("the pre_auth_code was issued to another component_appid")

// The values that WeChat documents.
var (
	authTypes      = []int{1, 2, 3, 4, 5, 6, 8}
	bizAppID       = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	categoryIDList = regexp.MustCompile(`^[0-9]+(\|[0-9]+)*$`)
)

// visit notes a visit, or says which parameter WeChat refuses.
func (s *Server) visit(v Visit) error {
	switch o := v.Options; {
	case !slices.Contains(authTypes, o.AuthType):
		return fmt.Errorf("auth_type must be one of %v, not %d", authTypes, o.AuthType)
	case o.BizAppID != "" && !bizAppID.MatchString(o.BizAppID):
		return errors.New("biz_appid must be an appid")
	case o.CategoryIDList != "" && !categoryIDList.MatchString(o.CategoryIDList):
		return errors.New("category_id_list must be numbers separated by |")
	}
	appid, expires, ok := s.issued(v.PreAuthCode)
	switch {
	case !ok:
		return ErrCodeUnknown
	case appid != v.AppID:
		return errOtherComponent
	case !s.options.Now().Before(expires):
		return ErrCodeExpired
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits = append(s.visits, v)
	return nil
}
