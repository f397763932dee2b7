-- wrk … <url> -- <file of requests> <offset>: sends them in turn from there on, and prints what came of it as a line of JSON.
local requests = {}
local count = 0
local position = 0

function init (args)
  for line in io.lines(args[1]) do
    local path, authorization = line:match('^([^\t]*)\t(.*)$')
    local headers = { Host = 'localhost' }
    if authorization ~= '' then headers.Authorization = authorization end
    count = count + 1
    requests[count] = wrk.format('GET', path, headers)
  end
  position = tonumber(args[2]) % count
end

function request ()
  position = position % count + 1
  return requests[position]
end

function done (summary, latency)
  local errors = summary.errors
  io.write(string.format('RESULT {"requests":%d,"seconds":%f,"p99":%f,"refused":%d,"failed":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(99) / 1e3, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
