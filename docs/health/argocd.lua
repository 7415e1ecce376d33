-- Health of an RLHFJob for Argo CD: resource.customizations.health.rlhf.dev_RLHFJob in argocd-cm.
-- Lua 5.1 without its string library, as Argo CD runs it.
local status = obj.status
if status == nil or status.conditions == nil then
  return {status = "Progressing", message = "the operator has not seen it yet"}
end
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the operator has not seen this change yet"}
end
local holds = {}
for _, condition in ipairs(status.conditions) do
  if condition.status == "True" then
    holds[condition.type] = condition
  end
end
local ends = {
  {"Complete", "Healthy"},
  {"Failed", "Degraded"},
  {"Stalled", "Degraded"},
  {"Suspended", "Suspended"},
}
for _, pair in ipairs(ends) do
  local condition = holds[pair[1]]
  if condition ~= nil then
    return {status = pair[2], message = condition.reason .. ": " .. (condition.message or "")}
  end
end
return {status = "Progressing", message = (status.stage or "") .. ": " .. (status.progress or status.phase or "")}
