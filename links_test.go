package preauth_test

import (
	"strings"
	"testing"

	"preauth"
)

func TestParseLookupRequestAuthTypes(t *testing.T) {
	known := []bool{true, true, true, true, true, true, true, false, true, false} // 0 leaves it out
	for authType := -1; authType < len(known); authType++ {
		request := preauth.LookupRequest{AppID: appID, LinkOptions: preauth.LinkOptions{AuthType: authType}}
		_, err := preauth.ParseLookupRequest("", request.Encode())
		if authType >= 0 && known[authType] {
			if err != nil {
				t.Errorf("auth_type %d: %v", authType, err)
			}
			continue
		}
		checkRefused(t, err, "auth_type must be one of [1 2 3 4 5 6 8]")
	}
}

func TestParseLookupRequestRedirectURIs(t *testing.T) {
	base := "https://example.com/"
	good := []string{
		base, "http://example.com", "HTTPS://EXAMPLE.COM/A", "https://example.com:8443/a/b?c=d#e", "http://127.0.0.1:8080/cb",
		"http://[::1]:8080/", "https://例子.测试/路径", base + strings.Repeat("a", preauth.MaxRedirectURI-len(base)),
		base + strings.Repeat("路", preauth.MaxRedirectURI-len(base)), base + "?x=%20%0A",
	}
	for _, uri := range good {
		request := preauth.LookupRequest{AppID: appID, LinkOptions: preauth.LinkOptions{RedirectURI: uri}}
		if _, err := preauth.ParseLookupRequest("", request.Encode()); err != nil {
			t.Errorf("%q: %v", uri, err)
		}
	}
	address := "must be an absolute http or https URL"
	bad := map[string]string{
		marker:                                             address,
		"/" + marker:                                       address,
		"//example.com/" + marker:                          address,
		"example.com/" + marker:                            address,
		"example.com:443/" + marker:                        address,
		"https:example.com":                                address,
		"https:///" + marker:                               address,
		"https://:443/" + marker:                           address,
		"https://":                                         address,
		"ftp://example.com/" + marker:                      address,
		"javascript:alert(1)//" + marker:                   address,
		"weixin://" + marker:                               address,
		" https://example.com":                             address,
		"https://example.com/a b":                          address,
		"https://example.com/\n":                           address,
		"https://example.com/\u00a0":                       address,
		"https://example.com/\u200b":                       address,
		"https://example.com/\u202e":                       address,
		"https://example.com/%zz" + marker:                 address,
		"https://exa mple.com/":                            address,
		"https://[::1/" + marker:                           address,
		"https://example.com:x/" + marker:                  address,
		base + strings.Repeat("a", preauth.MaxRedirectURI): "has 1044 characters: the limit is 1024",
		base + strings.Repeat("路", preauth.MaxRedirectURI+1-len(base)): "has 1025 characters: the limit is 1024",
	}
	for uri, says := range bad {
		request := preauth.LookupRequest{AppID: appID, LinkOptions: preauth.LinkOptions{RedirectURI: uri}}
		_, err := preauth.ParseLookupRequest("", request.Encode())
		checkRefused(t, err, says)
	}
}

func TestParseLookupRequestCategoryIDs(t *testing.T) {
	for _, list := range []string{"0", "99", "1|17|99", strings.Repeat("1|", preauth.MaxCategoryIDList/2-1) + "17"} {
		request := preauth.LookupRequest{AppID: appID, LinkOptions: preauth.LinkOptions{CategoryIDList: list}}
		if got, err := preauth.ParseLookupRequest("", request.Encode()); err != nil || got != request {
			t.Errorf("%q: %+v, %v", list, got, err)
		}
	}
	for _, list := range []string{
		"|", "1|", "|1", "1||2", "1,2", "1 |2", "-1", "+1", "1.5", "0x1", "１", marker, "1|" + marker, "1&x=1", "1\n",
		strings.Repeat("1|", preauth.MaxCategoryIDList/2) + "1",
	} {
		request := preauth.LookupRequest{AppID: appID, LinkOptions: preauth.LinkOptions{CategoryIDList: list}}
		_, err := preauth.ParseLookupRequest("", request.Encode())
		checkRefused(t, err, "category_id_list must be ids of permission sets")
	}
}
