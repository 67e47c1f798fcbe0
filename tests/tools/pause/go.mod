module llm-operator/tests/tools/pause

go 1.24.0
