package wechat

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"preauth"
)

// Quota is what WeChat says of a component's calls. WeChat's counts lag by about 1 % of the limit.
type Quota struct {
	// DailyLimit is how many calls the component has in a day, which begins at midnight UTC+8. It is 1
	// at least. Used and Remaining are today's; they need not add up to the limit.
	DailyLimit, Used, Remaining int
	// RateCalls is how many calls the component has within RateWindow, a number of whole seconds. Both
	// are 0 if WeChat does not say.
	RateCalls  int
	RateWindow time.Duration
}

// quota returns the quota in the reply, and an [*Error] if there is none. token is redacted in the
// error.
func (r reply) quota(host string, token preauth.Secret) (Quota, error) {
	quota, errCode, errMsg, unusable := parseQuota(r.body)
	if r.ok() && errCode == 0 && unusable == nil {
		return quota, nil
	}
	e := r.failure(host, newRedactor(token.Reveal()), errCode, errMsg, unusable)
	e.what = quotaAnswer
	return Quota{}, e
}

// parseQuota parses the body of a reply. The error says why the body has no usable quota, and repeats
// nothing from it. It has no meaning if errCode is not 0.
func parseQuota(body []byte) (q Quota, errCode int, errMsg string, err error) {
	if len(body) > maxReply {
		return q, 0, "", fmt.Errorf("longer than %d bytes", maxReply)
	}
	var members struct {
		ErrCode member `json:"errcode"`
		ErrMsg  member `json:"errmsg"`
		Quota   struct {
			DailyLimit member `json:"daily_limit"`
			Used       member `json:"used"`
			Remain     member `json:"remain"`
		} `json:"quota"`
		RateLimit struct {
			CallCount     member `json:"call_count"`
			RefreshSecond member `json:"refresh_second"`
		} `json:"rate_limit"`
	}
	if json.Unmarshal(body, &members) != nil {
		return q, 0, "", errors.New("not a JSON object with a quota")
	}
	errMsg = members.ErrMsg.text()
	if errCode, err = members.ErrCode.errCode(); err != nil || errCode != 0 {
		return q, errCode, errMsg, err
	}
	window := 0
	for _, number := range []struct {
		name     string
		member   member
		required bool
		least    int
		into     *int
	}{
		{"daily_limit", members.Quota.DailyLimit, true, 1, &q.DailyLimit},
		{"used", members.Quota.Used, false, 0, &q.Used},
		{"remain", members.Quota.Remain, true, 0, &q.Remaining},
		{"call_count", members.RateLimit.CallCount, false, 0, &q.RateCalls},
		{"refresh_second", members.RateLimit.RefreshSecond, false, 0, &window},
	} {
		if number.member.value == nil && !number.required {
			continue
		}
		if *number.into, err = number.member.count(number.least); err != nil {
			return Quota{}, 0, errMsg, fmt.Errorf("%s %w", number.name, err)
		}
	}
	if q.RateCalls == 0 || window == 0 {
		q.RateCalls, window = 0, 0
	}
	q.RateWindow = time.Duration(window) * time.Second
	return q, 0, errMsg, nil
}

// maxCount is the largest number of calls or seconds that a quota may have.
const maxCount = 1 << 31

// count returns a whole number that is not less than least.
func (m *member) count(least int) (int, error) {
	switch {
	case m.times > 1:
		return 0, errors.New("appears twice")
	case m.value == nil:
		return 0, errors.New("is missing")
	}
	number, err := m.number()
	if err != nil {
		return 0, errors.New("is not a number")
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < least || n > maxCount {
		return 0, fmt.Errorf("is not a whole number from %d to %d", least, maxCount)
	}
	return n, nil
}
