package entry

// texts are what the page says, in the order of [pageLanguages].
var texts = map[string][2]string{
	"title":    {"WeChat authorization", "微信授权"},
	"for":      {"requested by", "请求方"},
	"language": {"Language", "语言"},
	"lost":     {"No connection. Trying again.", "网络连接中断，正在重试。"},
	"left":     {"Time left:", "剩余时间："},
	"again":    {"Next try in", "下次重试："},
	"retry":    {"Try now", "立即重试"},
	"detail":   {"Reason:", "原因："},

	"computer":      {"Scan with WeChat", "请用微信扫码"},
	"computer.said": {"Open WeChat on your phone and scan this code. Then choose the account to authorize.", "打开手机微信，扫描二维码，然后选择要授权的账号。"},
	"computer.qr":   {"QR code of the link to this page", "本页链接的二维码"},
	"computer.go":   {"Or continue on this computer", "或在电脑上继续"},

	"phone":      {"Opening WeChat's page", "正在打开微信授权页面"},
	"phone.said": {"If nothing happens, continue with the button.", "如果没有自动跳转，请点击按钮。"},
	"phone.else": {"If you are asked to use WeChat, copy the link that brought you here, and open it in WeChat.", "如果提示需要在微信中打开，请复制打开本页的链接，在微信中打开。"},
	"phone.go":   {"Continue", "继续"},

	"done":      {"Authorized", "授权成功"},
	"done.said": {"You can close this page.", "可以关闭本页了。"},

	"forged":        {"This link is not valid", "链接无效"},
	"forged.said":   {"It is incomplete, or it was changed. Get a new one from the page where you found it.", "链接不完整或已被改动。请回到原来的页面重新获取。"},
	"expired":       {"This link has expired", "链接已过期"},
	"expired.said":  {"Get a new one from the page where you found it.", "请回到原来的页面重新获取。"},
	"conflict":      {"This link was replaced", "链接已失效"},
	"conflict.said": {"Another link was made for the same visit. Use that one, or get a new one from the page where you found it.", "同一次访问已生成另一个链接。请使用新的链接，或回到原来的页面重新获取。"},
	"wrong":         {"This link was made wrong", "链接生成有误"},
	"wrong.said":    {"You cannot fix this. Tell the sender of the link:", "您无法自行解决，请将以下信息告知链接的提供方："},
	"unready":       {"Authorization is not possible right now", "暂时无法授权"},
	"unready.said":  {"This is not your fault. This page tries again by itself. If it takes long, tell the sender of the link.", "这不是您的问题。本页会自动重试。如果长时间未恢复，请告知链接的提供方。"},
	"busy":          {"Please wait a moment", "请稍候"},
	"busy.said":     {"Too many people came at once. This page goes on by itself.", "当前访问人数较多，本页会自动继续。"},
	"broken":        {"Something is broken", "系统出错了"},
	"broken.said":   {"This is our fault, not yours. This page tries again by itself. If it takes long, tell the sender of the link.", "这是我们的问题，与您无关。本页会自动重试。如果长时间未恢复，请告知链接的提供方。"},
	"away":          {"The service does not answer", "服务暂时不可用"},
	"away.said":     {"This page tries again by itself.", "本页会自动重试。"},
}
