-- SPDX-License-Identifier: ISC
-- For pandoc: links between the documents lead to the other HTML pages, in man pages to the other pages'
-- names. What is no document of doc/ stays where it is.
function Link(link)
  local page, anchor = link.target:match("^([%w_]+)%.md(.*)$")
  if not page then
    return nil
  end
  if FORMAT == "man" then
    return pandoc.Strong("tls-" .. page .. "(7)")
  end
  link.target = page .. ".html" .. anchor
  return link
end
