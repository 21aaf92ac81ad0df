-- Visitors with and without a session, mixed: wrk … -- COOKIE PROFILE. A run's end is as in report.lua.
dofile((debug.getinfo(1, "S").source:match("@(.*/)") or "./") .. "report.lua")

local ready, sent = {}, 0

function init(args)
  local anonymous, member = {}, { Cookie = args[1] }
  local visits = {}
  local function add(times, path, headers)
    for _ = 1, times do visits[#visits + 1] = { path, headers } end
  end
  for _ = 1, 2 do
    add(5, "/", anonymous)
    add(3, "/", member)
    add(1, args[2], anonymous)
  end
  add(1, args[2], member)
  add(1, "/home", member)
  for number, visit in ipairs(visits) do
    ready[number] = wrk.format("GET", visit[1], visit[2])
  end
end

function request()
  sent = sent + 1
  return ready[sent % #ready + 1]
end
