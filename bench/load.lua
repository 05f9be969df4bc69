-- Webhooks for wrk: unique eventIds, 600 bytes, Basic auth. The prefix comes as the script's argument.
local counter = 0
local thread_number = 0
local head, tail, authorization

function setup(thread)
  thread:set("number", thread_number)
  thread_number = thread_number + 1
end

function init(args)
  authorization = args[2]
  head = '{"eventId": "' .. args[1] .. '-' .. number .. '-'
  tail = '", "timestamp": "2026-11-22T11:01:36", "eventType": "INVOICE", "transactionStatus": "ARRIVED", '
    .. '"orderId": "PO-123456", "itscopeOrderId": "123456-789", "documentId": "123456789", '
    .. '"documentUrl": "https://api.itscope.com/2.1/business/documents/123456789-1234-5678-9123-123456784567/INVOICE.xml", '
    .. '"transactionId": "123456789-1234-5678-9123-123456784567", "padding": "'
  tail = tail .. string.rep("x", 600 - #head - 8 - #tail - 2) .. '"}'
  wrk.headers["Authorization"] = authorization
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  counter = counter + 1
  return wrk.format("POST", nil, nil, head .. string.format("%08d", counter) .. tail)
end

function done(summary, latency, requests)
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status
      + summary.errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
