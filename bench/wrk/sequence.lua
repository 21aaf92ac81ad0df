-- Asks for pages in the order of a file, each line a path and a cookie: wrk … -- FILE START. Ends as report.lua does.
dofile((debug.getinfo(1, "S").source:match("@(.*/)") or "./") .. "report.lua")

local ready, sent = {}, 0

function init(args)
  local formatted = {}
  for line in io.lines(args[1]) do
    local path, cookie = line:match("^(%S+) (.*)$")
    formatted[line] = formatted[line] or wrk.format("GET", path, cookie ~= "" and { Cookie = cookie } or {})
    ready[#ready + 1] = formatted[line]
  end
  sent = tonumber(args[2])
end

function request()
  sent = sent + 1
  return ready[(sent - 1) % #ready + 1]
end
