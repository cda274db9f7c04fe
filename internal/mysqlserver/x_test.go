package mysqlserver
import ("testing";"time")
func TestX(t *testing.T){ b:=time.Now(); s,err:=Start(t.Context(), Options{Engine:TiDB,Log:t.Logf}); if err!=nil {t.Fatal(err)}; t.Log(time.Since(b)); t.Log(s.CreateDatabase(t.Context(),"a"), s.DSN("a")); b=time.Now(); t.Log(s.Restart(t.Context()), time.Since(b)); b=time.Now(); s.private.process.stop(); t.Log(time.Since(b),s.private.process.command.ProcessState); t.Log(s.Close(), time.Since(b))}
