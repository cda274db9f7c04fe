package wechattest

import (
	"encoding/json"
	"net/http"
)

// quotaPath is where WeChat tells what is left of a quota.
const quotaPath = "/cgi-bin/openapi/quota/get"

// questions are the requests for what is left of a quota.
type questions struct {
	count map[string]int // of each component; "" for all
	fault Fault
}

// SetDailyQuota sets the number of codes that a component gets in a day, 0 for no limit. What it has
// got today counts.
func (s *Server) SetDailyQuota(appid string, codes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.component(appid).dailyQuota = codes
}

// Questions returns how often somebody asked what is left of a component's quota, or of any
// component's if appid is empty. A component is known by a token that was passed to SetToken.
func (s *Server) Questions(appid string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.questions.count[appid]
}

// FailQuestions makes each question for what is left of a quota fail from now on. The zero [Fault]
// ends this. Neither [Server.Next] nor [Server.Every] affects these questions, and [Server.Calls]
// does not have them.
func (s *Server) FailQuestions(fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.questions.fault = fault
}

// serveQuota tells what is left of a component's quota. WeChat names the component by its token, and
// refuses to tell of a call that the component may not make. The server does the same for a component
// without a quota, and for a token that was never passed to SetToken.
func (s *Server) serveQuota(w http.ResponseWriter, r *http.Request) {
	body := bodyOf(w, r)
	call := s.callerOf(r)
	s.mu.Lock()
	if known := s.tokens[call.Token.Reveal()]; known != nil {
		call.AppID = known.appid
		s.questions.count[call.AppID]++
	}
	s.questions.count[""]++
	fault := s.questions.fault
	s.mu.Unlock()
	s.pause(fault.Delay)
	s.park(fault.Hold)
	if fault.Reset != NoReset {
		reset(w)
		return
	}
	var answer quotaAnswer
	reply := decide(&call, fault,
		func() (errCode int) { answer, errCode = s.quotaOf(call, r.Method, body); return errCode },
		func() []byte { return encode(answer) })
	s.park(fault.HoldAnswer)
	s.send(w, fault, call.Status, reply)
}

// quotaAnswer is WeChat's answer to the question for a quota.
type quotaAnswer struct {
	ErrCode int    `json:"errcode"`
	ErrMsg  string `json:"errmsg"`
	Quota   struct {
		DailyLimit int `json:"daily_limit"`
		Used       int `json:"used"`
		Remain     int `json:"remain"`
	} `json:"quota"`
	RateLimit struct {
		CallCount     int `json:"call_count"`
		RefreshSecond int `json:"refresh_second"`
	} `json:"rate_limit"`
}

// quotaOf returns the quota that a call asks for, or the errcode with which WeChat refuses to tell.
func (s *Server) quotaOf(call Call, method string, body []byte) (answer quotaAnswer, errCode int) {
	var request struct {
		Path string `json:"cgi_path"`
	}
	malformed := json.Unmarshal(body, &request) != nil
	now := s.options.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if errCode := s.checkCaller(call, method, body, now); errCode != 0 {
		return answer, errCode
	}
	c := s.components[call.AppID]
	switch {
	case malformed:
		return answer, 47001
	case request.Path != s.options.Path:
		return answer, 76021
	case c == nil || c.dailyQuota == 0:
		return answer, 76022
	}
	c.advance(now)
	answer.ErrMsg = "ok"
	answer.Quota.DailyLimit = c.dailyQuota
	answer.Quota.Used = max(0, c.ofDay-s.options.QuotaLag)
	answer.Quota.Remain = max(0, c.dailyQuota-answer.Quota.Used)
	if s.options.MinuteLimit > 0 {
		answer.RateLimit.CallCount, answer.RateLimit.RefreshSecond = s.options.MinuteLimit, 60
	}
	return answer, 0
}
